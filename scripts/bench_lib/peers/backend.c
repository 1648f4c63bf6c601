/* The upstream of every proxy under test: one thread, epoll, HTTP/1.1 just as far as the load generator needs.
 *
 *   backend PORT
 *
 * any  .../sse    a chunked event stream, 50 events a second, each with CLOCK_MONOTONIC nanoseconds
 * GET  .../down   10 MB
 * POST anything   reads the body (Content-Length), answers 1 KiB
 *
 * Answers and events have the form of OpenAI's chat completions, so that proxies that read them can.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_MAX = 8192, DOWN_BYTES = 10 * 1000 * 1000, EVENT_BYTES = 176 };
static const long PERIOD_NS = 20 * 1000 * 1000;

struct conn {
    int fd, have, streaming, wants_events;
    long body_left, down_left;
    long next_ns;
    struct conn *next_stream, *prev_stream;
    char head[HEAD_MAX];
};

static int ep;
static struct conn *streams;
static char small[2048], big[1 << 20];
static int small_size;

static long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

static void drop(struct conn *c) {
    if (c->streaming) {
        if (c->prev_stream) c->prev_stream->next_stream = c->next_stream; else streams = c->next_stream;
        if (c->next_stream) c->next_stream->prev_stream = c->prev_stream;
    }
    close(c->fd);
    free(c);
}

static void watch(struct conn *c, int op, unsigned events) {
    struct epoll_event e = {.events = events, .data.ptr = c};
    epoll_ctl(ep, op, c->fd, &e);
}

static int send_down(struct conn *c) {
    while (c->down_left > 0) {
        long part = c->down_left < (long)sizeof big ? c->down_left : (long)sizeof big;
        ssize_t sent = send(c->fd, big, part, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN) return -1;
            watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            return 0;
        }
        c->down_left -= sent;
    }
    watch(c, EPOLL_CTL_MOD, EPOLLIN);
    return 0;
}

static int stream(struct conn *c) {
    static const char start[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    if (send(c->fd, start, sizeof start - 1, MSG_NOSIGNAL) < 0) return -1;
    c->streaming = 1;
    c->next_ns = now_ns() + rand() % PERIOD_NS;
    c->next_stream = streams;
    if (streams) streams->prev_stream = c;
    streams = c;
    return 0;
}

static int answer(struct conn *c) {
    if (c->wants_events) return stream(c);
    return send(c->fd, small, small_size, MSG_NOSIGNAL) == small_size ? 0 : -1;
}

static int begin(struct conn *c, char *head, char *end) {
    char *length = strcasestr(head, "\r\nContent-Length:");
    char *line_end = strstr(head, "\r\n");
    c->body_left = length && length < end ? atol(length + 17) : 0;
    c->wants_events = memmem(head, line_end - head, "/sse", 4) != NULL;
    if (memmem(head, line_end - head, "/down", 5)) {
        char start[128];
        int size = snprintf(start, sizeof start, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", DOWN_BYTES);
        if (send(c->fd, start, size, MSG_NOSIGNAL) < 0) return -1;
        c->down_left = DOWN_BYTES;
        return send_down(c);
    }
    return c->body_left ? 0 : answer(c);
}

static int readable(struct conn *c) {
    for (;;) {
        if (c->body_left > 0) {
            ssize_t got = recv(c->fd, big, c->body_left < (long)sizeof big ? c->body_left : (long)sizeof big, 0);
            if (got <= 0) return got < 0 && errno == EAGAIN ? 0 : -1;
            c->body_left -= got;
            if (c->body_left == 0 && answer(c) < 0) return -1;
            continue;
        }
        ssize_t got = recv(c->fd, c->head + c->have, HEAD_MAX - 1 - c->have, 0);
        if (got <= 0) return got < 0 && errno == EAGAIN ? 0 : -1;
        c->have += got;
        c->head[c->have] = 0;
        char *end = strstr(c->head, "\r\n\r\n");
        if (!end) {
            if (c->have >= HEAD_MAX - 1) return -1;
            continue;
        }
        int extra = c->have - (int)(end + 4 - c->head);
        c->have = 0;
        if (begin(c, c->head, end + 2) < 0) return -1;
        if (c->body_left > 0 && extra > 0) {
            c->body_left -= extra;
            if (c->body_left == 0 && answer(c) < 0) return -1;
        }
    }
}

static void tick(void) {
    long now = now_ns();
    for (struct conn *c = streams, *after; c; c = after) {
        after = c->next_stream;
        if (c->next_ns > now) continue;
        char event[EVENT_BYTES + 16];
        int size = snprintf(event, sizeof event,
                            "%x\r\ndata: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":"
                            "[{\"index\":0,\"delta\":{\"content\":\"@%019ld \"},\"finish_reason\":null}]}",
                            EVENT_BYTES, now_ns());
        int body_at = 4;
        memset(event + size, ' ', EVENT_BYTES - (size - body_at) - 2);
        memcpy(event + body_at + EVENT_BYTES - 2, "\n\n\r\n", 4);
        if (send(c->fd, event, body_at + EVENT_BYTES + 2, MSG_NOSIGNAL) < 0 && errno != EAGAIN) {
            drop(c);
            continue;
        }
        c->next_ns += PERIOD_NS;
        if (c->next_ns < now) c->next_ns = now + PERIOD_NS;
    }
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    struct rlimit files = {65536, 65536};
    setrlimit(RLIMIT_NOFILE, &files);
    small_size = snprintf(small, sizeof small, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1024\r\n\r\n");
    memset(small + small_size, ' ', 1024);
    static const char completion[] =
        "{\"id\":\"c\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"m\",\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":9,"
        "\"total_tokens\":18},\"choices\":[{\"index\":0,\"finish_reason\":\"stop\",\"message\":{\"role\":\"assistant\",\"content\":\"ok\"}}]}";
    memcpy(small + small_size, completion, sizeof completion - 1);
    small_size += 1024;
    int listening = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listening, (struct sockaddr *)&at, sizeof at) || listen(listening, 4096)) return perror("listen"), 1;
    ep = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(ep, EPOLL_CTL_ADD, listening, &e);
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct epoll_event events[256];
        int n = epoll_wait(ep, events, 256, streams ? 1 : -1);
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (!c) {
                int fd;
                while ((fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    c = calloc(1, sizeof *c);
                    c->fd = fd;
                    watch(c, EPOLL_CTL_ADD, EPOLLIN);
                }
                continue;
            }
            if ((events[i].events & (EPOLLERR | EPOLLHUP)) || ((events[i].events & EPOLLOUT) && send_down(c) < 0) ||
                ((events[i].events & EPOLLIN) && readable(c) < 0))
                drop(c);
        }
        if (streams) tick();
    }
}
