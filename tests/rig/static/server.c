/* The smallest worker: answers every request with 200 and says when it started.
 *
 * X-Main-Ns and X-Listen-Ns are CLOCK_MONOTONIC at the first line of main() and right after listen().
 * Containers share the host's clock, so a benchmark can subtract its own times from them.
 * /health answers the same as any other path. PORT sets the port (8000).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CONNECTIONS_MAX 1024
#define HEAD_BYTES_MAX 16384

static long long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void on_term(int number) {
    (void)number;
    _exit(0);
}

/* Answers each whole request head in the buffer; returns how many bytes are left over. */
static size_t answer_all(int fd, char *buffer, size_t length, const char *answer, size_t answer_length) {
    char *start = buffer, *end = buffer + length, *head_end;
    while ((head_end = memmem(start, (size_t)(end - start), "\r\n\r\n", 4)) != NULL) {
        start = head_end + 4;
        if (send(fd, answer, answer_length, MSG_NOSIGNAL) < 0)
            return 0;
    }
    memmove(buffer, start, (size_t)(end - start));
    return (size_t)(end - start);
}

int main(void) {
    long long main_ns = now_ns();
    static struct pollfd polled[CONNECTIONS_MAX];
    static char *buffers[CONNECTIONS_MAX];
    static size_t lengths[CONNECTIONS_MAX];
    int count = 1, one = 1;
    const char *port = getenv("PORT");
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)(port ? atoi(port) : 8000))};
    char answer[512];

    /* The first process of a container gets no default action for a signal. */
    signal(SIGTERM, on_term);
    signal(SIGINT, on_term);
    polled[0].fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    polled[0].events = POLLIN;
    setsockopt(polled[0].fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(polled[0].fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(polled[0].fd, 1024) != 0) {
        perror("cannot listen");
        return 1;
    }
    long long listen_ns = now_ns();
    int answer_length = snprintf(answer, sizeof answer,
                                 "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 16\r\n"
                                 "Connection: keep-alive\r\n"
                                 "X-Main-Ns: %lld\r\nX-Listen-Ns: %lld\r\n\r\n{\"status\":\"ok\"}\n",
                                 main_ns, listen_ns);
    for (;;) {
        if (poll(polled, (nfds_t)count, -1) < 0 && errno != EINTR)
            return 1;
        for (int i = count - 1; i > 0; i--) {
            if (!polled[i].revents)
                continue;
            ssize_t got = recv(polled[i].fd, buffers[i] + lengths[i], HEAD_BYTES_MAX - lengths[i], 0);
            if (got <= 0) { /* The last connection takes the place of the closed one. */
                close(polled[i].fd);
                free(buffers[i]);
                count--;
                polled[i] = polled[count];
                buffers[i] = buffers[count];
                lengths[i] = lengths[count];
                continue;
            }
            lengths[i] = answer_all(polled[i].fd, buffers[i], lengths[i] + (size_t)got, answer, (size_t)answer_length);
        }
        if (polled[0].revents && count < CONNECTIONS_MAX) {
            int fd = accept4(polled[0].fd, NULL, NULL, SOCK_CLOEXEC);
            if (fd < 0)
                continue;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            polled[count].fd = fd;
            polled[count].events = POLLIN;
            polled[count].revents = 0;
            buffers[count] = malloc(HEAD_BYTES_MAX);
            lengths[count] = 0;
            count++;
        }
    }
}
