/* A load generator for streamed HTTP answers, one thread, epoll: it must cost nothing beside the server it measures.

   load PORT CONNECTIONS ROUNDS events|lines|whole FOLDER|- REQUEST...

   Connection i sends the bytes of file REQUEST[i % n] (a whole HTTP/1.1 request), ROUNDS times in a row, each after the
   answer to the one before. All connections are open before the first request is sent. An event is a block that ends
   with an empty line (server-sent events), or a line; its time is that of the read that brought its end, so that events
   that were glued together have a gap of 0 between them. The last answer's body of connection i goes to FOLDER/i.
   "begun" on standard error: every connection has had a byte of a body. The result is one JSON object; times in ms.

   Why not a kept tool: wrk, oha, hey, vegeta and h2load time whole answers, not the events in them; k6, guidellm and
   `vllm bench serve` do, in JavaScript and Python, at several times a server's own cost per token. */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_BYTES = 1 << 14, READ_BYTES = 1 << 18, BATCH = 256 };
enum place { HEAD, SIZE, DATA, AFTER_DATA, TRAILER, LENGTH, DONE };

typedef struct { char *data; size_t size, room; } bytes;
typedef struct { double *data; size_t size, room; } times;
typedef struct {
    int socket, rounds, has_begun;
    enum place place;
    size_t left, request;
    double sent, last;
    bytes head, body;
} connection;

static connection *connections;
static bytes *requests;
static size_t request_count, failed, answered, body_bytes, events, reads, chunks, most_in_read, begun;
static int is_sse, count, running, epoll;
static double now, began;
static times first_ms, gap_ms, pause_ms, whole_ms;

static void die(const char *what) { fprintf(stderr, "load: %s: %s\n", what, strerror(errno)); exit(1); }

static double clock_ms(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1e3 + at.tv_nsec / 1e6;
}

static void add(bytes *to, const char *data, size_t size) {
    if (to->size + size > to->room) {
        to->room = 2 * (to->size + size) + 256;
        if (!(to->data = realloc(to->data, to->room))) die("memory");
    }
    memcpy(to->data + to->size, data, size);
    to->size += size;
}

static void note(times *to, double value) {
    if (to->size == to->room && !(to->data = realloc(to->data, (to->room = 2 * to->room + 1024) * sizeof(double)))) die("memory");
    to->data[to->size++] = value;
}

static bytes file(const char *path) {
    char part[4096];
    bytes found = {0};
    FILE *in = fopen(path, "rb");
    if (!in) die(path);
    for (size_t got; (got = fread(part, 1, sizeof part, in));) add(&found, part, got);
    fclose(in);
    return found;
}

static void ask(connection *each) {
    const bytes *request = &requests[each->request];
    each->place = HEAD;
    each->head.size = each->body.size = 0;
    each->last = 0;
    each->sent = clock_ms();
    for (size_t done = 0; done < request->size;) {
        ssize_t sent = send(each->socket, request->data + done, request->size - done, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) die("send");
        if (sent > 0) done += sent;
    }
}

static size_t take(connection *each, const char *data, size_t size) {
    size_t found = 0, before = each->body.size;
    if (!each->has_begun) {
        each->has_begun = 1;
        if (++begun == (size_t)count) fprintf(stderr, "begun\n");
    }
    if (!each->last) note(&first_ms, now - each->sent);
    add(&each->body, data, size);
    body_bytes += size;
    char *body = each->body.data, *end = body + each->body.size;
    for (char *at = body + before; (at = memchr(at, '\n', end - at)); at++) found += !is_sse || (at > body && at[-1] == '\n');
    for (size_t k = 0; k < found; k++) {
        if (each->last) note(&gap_ms, now - each->last);
        if (each->last && each->last != now) note(&pause_ms, now - each->last);
        each->last = now;
    }
    if (!each->last) each->last = now;
    events += found;
    return found;
}

static void read_head(connection *each) {
    char *end = each->head.data;
    int status = atoi(end + 9);
    if (status != 200) failed++;
    each->place = SIZE;
    for (char *line = end; (line = strstr(line, "\r\n")); line += 2)
        if (!strncasecmp(line + 2, "content-length:", 15)) {
            each->left = strtoul(line + 17, NULL, 10);
            each->place = each->left ? LENGTH : DONE;
        }
}

/* Bytes that were taken of what is left; the answer's parts one after the other. */
static size_t parse(connection *each, const char *data, size_t size, size_t *found) {
    size_t part = size < each->left ? size : each->left;
    const char *line;
    switch (each->place) {
    case HEAD:
        add(&each->head, data, 1);
        if (each->head.size > HEAD_BYTES) { errno = EPROTO; die("head"); }
        if (each->head.size > 3 && !memcmp(each->head.data + each->head.size - 4, "\r\n\r\n", 4)) {
            add(&each->head, "", 1);
            read_head(each);
            each->head.size = 0;
        }
        return 1;
    case SIZE:
    case TRAILER:
        line = memchr(data, '\n', size);
        part = line ? (size_t)(line - data) + 1 : size;
        add(&each->head, data, part);
        if (!line) return part;
        add(&each->head, "", 1);
        if (each->place == TRAILER) {
            each->place = DONE;
        } else {
            each->left = strtoul(each->head.data, NULL, 16);
            each->place = each->left ? DATA : TRAILER;
            chunks += each->left > 0;
        }
        each->head.size = 0;
        return part;
    case DATA:
    case LENGTH:
        *found += take(each, data, part);
        each->left -= part;
        if (!each->left) {
            each->place = each->place == DATA ? AFTER_DATA : DONE;
            each->left = 2;
        }
        return part;
    case AFTER_DATA:
        each->left -= part;
        if (!each->left) each->place = SIZE;
        return part;
    case DONE:
        break;
    }
    errno = EPROTO;
    die("bytes after the answer");
    return 0;
}

static void receive(connection *each) {
    static char data[READ_BYTES];
    size_t found = 0;
    ssize_t got = recv(each->socket, data, sizeof data, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) die("the server closed a connection");
    for (size_t at = 0; at < (size_t)got;) at += parse(each, data + at, got - at, &found);
    reads += found > 0;
    most_in_read = found > most_in_read ? found : most_in_read;
    if (each->place != DONE) return;
    note(&whole_ms, now - each->sent);
    answered++;
    if (--each->rounds) {
        ask(each);
    } else {
        running--;
        epoll_ctl(epoll, EPOLL_CTL_DEL, each->socket, NULL); /* a server may close it, being idle */
    }
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void show(const char *name, times *of) {
    size_t n = of->size;
    qsort(of->data, n, sizeof(double), by_value);
    printf("\"%s\": {\"p50\": %.4f, \"p99\": %.4f, \"max\": %.4f}, ", name, n ? of->data[n / 2] : 0,
           n ? of->data[n * 99 / 100] : 0, n ? of->data[n - 1] : 0);
}

static void open_all(int port, int rounds) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (!(connections = calloc(count, sizeof *connections))) die("memory");
    if ((epoll = epoll_create1(0)) < 0) die("epoll");
    for (int i = 0; i < count; i++) {
        connection *each = &connections[i];
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = each};
        each->socket = socket(AF_INET, SOCK_STREAM, 0);
        each->rounds = rounds;
        each->request = i % request_count;
        if (connect(each->socket, (struct sockaddr *)&address, sizeof address)) die("connect");
        setsockopt(each->socket, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        fcntl(each->socket, F_SETFL, O_NONBLOCK);
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, each->socket, &event)) die("epoll");
    }
}

int main(int n, char **words) {
    struct epoll_event ready[BATCH];
    if (n < 7) { fprintf(stderr, "load PORT CONNECTIONS ROUNDS events|lines|whole FOLDER|- REQUEST...\n"); return 2; }
    count = running = atoi(words[2]);
    is_sse = !strcmp(words[4], "events");
    request_count = n - 6;
    if (!(requests = calloc(request_count, sizeof *requests))) die("memory");
    for (size_t i = 0; i < request_count; i++) requests[i] = file(words[6 + i]);
    open_all(atoi(words[1]), atoi(words[3]));
    began = clock_ms();
    for (int i = 0; i < count; i++) ask(&connections[i]);
    while (running) {
        int some = epoll_wait(epoll, ready, BATCH, -1);
        for (int i = 0; i < some; i++) {
            now = clock_ms();
            receive(ready[i].data.ptr);
        }
    }
    for (int i = 0; i < count && strcmp(words[5], "-"); i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%d", words[5], i);
        FILE *out = fopen(path, "wb");
        if (!out || fwrite(connections[i].body.data, 1, connections[i].body.size, out) != connections[i].body.size) die(path);
        fclose(out);
    }
    printf("{\"seconds\": %.6f, \"answers\": %zu, \"failed\": %zu, \"bytes\": %zu, ", (now - began) / 1e3, answered, failed, body_bytes);
    show("first_ms", &first_ms);
    show("gap_ms", &gap_ms);
    show("pause_ms", &pause_ms);
    show("whole_ms", &whole_ms);
    printf("\"events\": %zu, \"reads\": %zu, \"chunks\": %zu, \"most_in_read\": %zu}\n", events, reads, chunks, most_in_read);
    return 0;
}
