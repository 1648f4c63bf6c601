/* The load generator: one thread, epoll. Prints one JSON object.
 *
 *   load small PORT TOKEN CONNECTIONS SECONDS         POST 1 KiB, as fast as answers come
 *   load rate  PORT TOKEN CONNECTIONS SECONDS RATE    POST 1 KiB at a fixed rate, latency from the intended moment
 *   load sse   PORT TOKEN CONNECTIONS SECONDS         event streams; delay by the time each event carries
 *   load down  PORT TOKEN CONNECTIONS SECONDS         GET 10 MB, one after the other
 *   load up    PORT TOKEN CONNECTIONS SECONDS         POST 10 MB, one after the other
 *   load idle  PORT TOKEN CONNECTIONS 0               one request each, then keeps the connections until stdin ends
 *
 * With LOAD_CHAT=MODEL in the environment requests are OpenAI chat completions for that model, at LOAD_PATH.
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
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { BIG = 10 * 1000 * 1000, SAMPLES = 4 * 1000 * 1000 };
enum mode { SMALL, RATE, SSE, DOWN, UP, IDLE };
static const char *const NAMES[] = {"small", "rate", "sse", "down", "up", "idle"};

struct conn {
    int fd, busy, head_done, digits;
    long left, sent, began_ns, stamp;
    int have;
    char head[4096];
};

static enum mode mode;
static int ep, port, timer = -1;
static char *request, *discard;
static long request_size, samples, done, bytes, failed, warm_until;
static float *delays;
static struct conn **free_conns;
static int free_count;
static long *backlog, backlog_head, backlog_tail;
enum { BACKLOG = 1 << 20 };

static long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

static void sample(long ns) {
    if (samples < SAMPLES) delays[samples++] = ns / 1e6f;
}

static void watch(struct conn *c, int op, unsigned events) {
    struct epoll_event e = {.events = events, .data.ptr = c};
    epoll_ctl(ep, op, c->fd, &e);
}

static void open_conn(struct conn *c) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    memset(c, 0, sizeof *c);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to)) {
        perror("connect");
        exit(1);
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    int flags = SOCK_NONBLOCK;
    (void)flags;
    struct timeval none = {0};
    (void)none;
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
}

static void push(struct conn *c) {
    while (c->sent < request_size) {
        ssize_t sent = send(c->fd, request + c->sent, request_size - c->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0) {
            if (errno == EAGAIN) {
                watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
                return;
            }
            failed++;
            return;
        }
        c->sent += sent;
    }
    watch(c, EPOLL_CTL_MOD, EPOLLIN);
}

static void start(struct conn *c, long intended_ns) {
    c->busy = 1;
    c->head_done = 0;
    c->have = 0;
    c->sent = 0;
    c->began_ns = intended_ns;
    push(c);
}

static void finish(struct conn *c) {
    c->busy = 0;
    if (now_ns() >= warm_until) {
        done++;
        sample(now_ns() - c->began_ns);
    }
    if (mode == IDLE) return;
    if (mode != RATE) {
        start(c, now_ns());
    } else if (backlog_head != backlog_tail) {
        start(c, backlog[backlog_head++ % BACKLOG]);
    } else {
        free_conns[free_count++] = c;
    }
}

static void scan_events(struct conn *c, const char *data, long size) {
    long now = now_ns();
    for (long i = 0; i < size; i++) {
        if (data[i] == '@') {
            c->digits = 1;
            c->stamp = 0;
        } else if (c->digits) {
            c->stamp = c->stamp * 10 + (data[i] - '0');
            if (c->digits++ == 19) {
                c->digits = 0;
                if (c->stamp >= warm_until) {
                    done++;
                    sample(now - c->stamp);
                }
            }
        } else {
            const char *next = memchr(data + i, '@', size - i);
            if (!next) return;
            i = next - data - 1;
        }
    }
}

static int readable(struct conn *c) {
    ssize_t got;
    if (!c->head_done) {
        got = recv(c->fd, c->head + c->have, sizeof c->head - 1 - c->have, MSG_DONTWAIT);
        if (got <= 0) return got < 0 && errno == EAGAIN ? 0 : -1;
        c->have += got;
        c->head[c->have] = 0;
        char *end = strstr(c->head, "\r\n\r\n");
        if (!end) return c->have < (int)sizeof c->head - 1 ? 0 : -1;
        if (strncmp(c->head, "HTTP/1.1 200", 12)) return -1;
        c->head_done = 1;
        long rest = c->have - (end + 4 - c->head);
        if (mode == SSE) {
            scan_events(c, end + 4, rest);
            return 0;
        }
        char *length = strcasestr(c->head, "\r\nContent-Length:");
        if (!length) return -1;
        c->left = atol(length + 17) - rest;
    } else {
        got = recv(c->fd, discard, 1 << 20, MSG_DONTWAIT);
        if (got <= 0) return got < 0 && errno == EAGAIN ? 0 : -1;
        if (mode == SSE) {
            scan_events(c, discard, got);
            return 0;
        }
        c->left -= got;
        if (mode == DOWN && now_ns() >= warm_until) bytes += got;
    }
    if (c->left < 0) return -1;
    if (c->left == 0) {
        if (mode == UP && now_ns() >= warm_until) bytes += BIG;
        finish(c);
    }
    return 0;
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

int main(int argc, char **argv) {
    if (argc < 6) return 2;
    for (int i = 0; i <= IDLE; i++)
        if (!strcmp(argv[1], NAMES[i])) mode = i;
    port = atoi(argv[2]);
    int count = atoi(argv[4]);
    double seconds = atof(argv[5]);
    struct rlimit files = {65536, 65536};
    setrlimit(RLIMIT_NOFILE, &files);
    delays = malloc(SAMPLES * sizeof *delays);
    discard = malloc(1 << 20);
    backlog = malloc(BACKLOG * sizeof *backlog);
    free_conns = calloc(count, sizeof *free_conns);
    long body = mode == UP ? BIG : mode == SSE || mode == DOWN ? 0 : 1024;
    request = malloc(2048 + body);
    const char *model = getenv("LOAD_CHAT");
    if (model && mode != DOWN && mode != UP) body = 1024;
    const char *path = model ? getenv("LOAD_PATH") : mode == SSE ? "/e/llm/sse" : mode == DOWN ? "/e/llm/down" : "/e/llm/v1/echo";
    request_size = sprintf(request, "%s %s HTTP/1.1\r\nHost: bench.test\r\nUser-Agent: load\r\nAccept: */*\r\nAuthorization: Bearer %s\r\n",
                           body ? "POST" : "GET", path, argv[3]);
    if (body) request_size += sprintf(request + request_size, "Content-Type: application/json\r\nContent-Length: %ld\r\n", body);
    request_size += sprintf(request + request_size, "\r\n");
    memset(request + request_size, 'z', body);
    if (model) {
        char start[256];
        int size = snprintf(start, sizeof start, "{\"model\":\"%s\",%s\"messages\":[{\"role\":\"user\",\"content\":\"", model,
                            mode == SSE ? "\"stream\":true," : "");
        memcpy(request + request_size, start, size);
        memcpy(request + request_size + body - 4, "\"}]}", 4);
    }
    request_size += body;

    ep = epoll_create1(0);
    struct conn *conns = calloc(count, sizeof *conns);
    for (int i = 0; i < count; i++) open_conn(&conns[i]);
    long t0 = now_ns(), period = 0, next = 0;
    warm_until = t0 + (mode == IDLE ? 0 : 150 * 1000 * 1000L);
    long until = warm_until + (long)(seconds * 1e9);
    if (mode == RATE) {
        period = (long)(1e9 / atof(argv[6]));
        next = t0 + period;
        timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
        epoll_ctl(ep, EPOLL_CTL_ADD, timer, &e);
        struct itimerspec when = {.it_value = {next / 1000000000L, next % 1000000000L}, .it_interval = {0, period}};
        timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
        for (int i = 0; i < count; i++) free_conns[free_count++] = &conns[i];
    } else {
        for (int i = 0; i < count; i++) start(&conns[i], now_ns());
    }
    int warm_told = 0;
    for (;;) {
        struct epoll_event events[256];
        int n = epoll_wait(ep, events, 256, 10);
        long now = now_ns();
        if (!warm_told && now >= warm_until && mode != IDLE) {
            warm_told = 1;
            puts("warm");
            fflush(stdout);
        }
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (!c) {
                unsigned long expired;
                if (read(timer, &expired, sizeof expired) < 0) continue;
                for (; next <= now_ns(); next += period) {
                    if (free_count) start(free_conns[--free_count], next);
                    else backlog[backlog_tail++ % BACKLOG] = next;
                }
                continue;
            }
            if (events[i].events & EPOLLOUT) push(c);
            if ((events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) && readable(c) < 0) {
                failed++;
                close(c->fd);
                if (mode == IDLE || failed > 1000) {
                    fprintf(stderr, "failed: %.200s\n", c->head);
                    return 1;
                }
                open_conn(c);
                start(c, now_ns());
            }
        }
        if (mode == IDLE && done >= count) {
            puts("idle");
            fflush(stdout);
            char end;
            while (read(0, &end, 1) > 0) {}
            return 0;
        }
        if (mode != IDLE && now >= until) break;
    }
    double took = (now_ns() - warm_until) / 1e9;
    qsort(delays, samples, sizeof *delays, by_value);
    printf("{\"done\": %ld, \"bytes\": %ld, \"failed\": %ld, \"seconds\": %.6f, \"p50_ms\": %.4f, \"p99_ms\": %.4f}\n", done, bytes,
           failed, took, samples ? delays[samples / 2] : 0.0, samples ? delays[samples * 99 / 100] : 0.0);
    return 0;
}
