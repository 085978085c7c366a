/* The load client: asks a Varlink service over and over, and says how long each answer took.
 *
 *     load [OPTION...] ADDRESS CONNECTIONS REQUESTS each|kept CALL
 *
 * ADDRESS is an abstract name, or a path if it begins with a slash.  CALL is the text of a call without its NUL; in it %n stands for
 * the number of the call, %u for the uid that it is made as, %m for its number modulo that of -m, and %b for its number in blanks,
 * so that no two calls are the same bytes.  With `each` every call has a connection of its own, and its time begins just before
 * connect(2); with `kept` it begins before send(2).  A tenth of REQUESTS is made before anything counts.
 *
 *     -c CPU        be pinned to that one
 *     -u UID[:N]    be that uid; with N, another one of N from UID on for each connection (its effective uid, which needs root)
 *     -m N          what %m counts to
 *     -s            a call has a series of replies: the last one ends it
 *     -e            errors are answers
 *     -t SECONDS    no longer than that, and nothing comes before what counts
 *     -p MICROSECONDS  pause before each call
 *     -h            hold: a single call on each connection, and all stay until standard input ends
 *
 * Prints one JSON object, in microseconds.  Exit status: 0; 1 if an answer was wrong or missing; 2 if it cannot be tried.
 */

#define _GNU_SOURCE
#include "latency.h"
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#define ROOM 65536
#define EVENTS 256
#define MOST_SILENCE 10000

struct connection {
    int descriptor;
    uid_t uid;
    uint64_t began;
    size_t length; /* of what came of a message that is not complete */
    char *rest;
};

static struct sockaddr_un address;
static socklen_t address_size;
static const char *call;
static int templated, kept, series, errors_are_answers, hold, epoll;
static long first_uid = -1, uids = 1, modulus = 1, total, warm, begun, done, failed, pause_us;
static uint64_t *taken, counted_from, ended, until;

static size_t written(char *to, long number, uid_t uid)
{
    char *at = to;
    for (const char *from = call; *from; from++) {
        if (from[0] == '%' && from[1] == 'b') {
            from++;
            for (int bit = 0; bit < 24; bit++)
                *at++ = number >> bit & 1 ? ' ' : '\t';
        } else if (from[0] == '%' && from[1] && strchr("num", from[1])) {
            from++;
            at += sprintf(at, "%ld", *from == 'n' ? number : *from == 'm' ? number % modulus : (long)uid);
        } else {
            *at++ = *from;
        }
    }
    *at++ = 0;
    return (size_t)(at - to);
}

/* Only of this thread, and without the C library, which would have it done by all. */
static void change_effective(uid_t uid)
{
    syscall(SYS_setresuid, -1, 0, -1);
    if (syscall(SYS_setresgid, -1, uid, -1) || syscall(SYS_setresuid, -1, uid, -1))
        err(2, "setresuid");
}

/* Whether there is a connection; if not, errno says why. */
static int connect_to_it(struct connection *each, long number)
{
    int made = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (made < 0)
        err(2, "socket");
    if (uids > 1)
        change_effective(each->uid = (uid_t)(first_uid + number % uids));
    if (connect(made, (struct sockaddr *)&address, address_size)) {
        int problem = errno;
        close(made);
        errno = problem;
        return 0;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = each};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, made, &event))
        err(2, "epoll_ctl");
    each->descriptor = made;
    each->length = 0;
    return 1;
}

static void disconnect(struct connection *each)
{
    close(each->descriptor);
    each->descriptor = -1;
}

static int over(void)
{
    return begun >= total || (until && now() >= until);
}

/* Make the next call; 0 if it has to be tried again, because the queue of the service is full. */
static int ask(struct connection *each)
{
    static char text[ROOM];
    static size_t length;
    if (over())
        return 1;
    if (pause_us)
        usleep((useconds_t)pause_us);
    each->began = now();
    if (each->descriptor < 0 && !connect_to_it(each, begun)) {
        if (errno != EAGAIN)
            err(1, "connect");
        return 0;
    }
    if (templated || !length)
        length = written(text, begun, each->uid);
    begun++;
    if (send(each->descriptor, text, length, MSG_NOSIGNAL) != (ssize_t)length) {
        failed++, done++;
        disconnect(each);
        return 0;
    }
    return 1;
}

/* Take what has come; whether that was the end of an answer. */
static int take(struct connection *each)
{
    static char buffer[ROOM + 1];
    if (each->length)
        memcpy(buffer, each->rest, each->length);
    ssize_t came = recv(each->descriptor, buffer + each->length, ROOM - each->length, 0);
    ended = now();
    if (came < 0 && errno == EAGAIN)
        return 0;
    if (came <= 0) {
        failed++, done++;
        disconnect(each);
        return 1;
    }
    char *message = buffer, *end = buffer + each->length + came, *nul;
    int complete = 0;
    while ((nul = memchr(message, 0, (size_t)(end - message)))) {
        size_t size = (size_t)(nul - message);
        if (!errors_are_answers && memmem(message, size, "\"error\"", 7)) {
            failed++;
            fprintf(stderr, "%s\n", message);
        }
        complete = !series || !memmem(message, size, "\"continues\":true", 16);
        message = nul + 1;
    }
    each->length = (size_t)(end - message);
    if (each->length) {
        if (!each->rest && !(each->rest = malloc(ROOM)))
            err(2, "malloc");
        memcpy(each->rest, message, each->length);
    }
    if (!complete)
        return 0;
    if (done == warm)
        counted_from = each->began;
    if (done >= warm)
        taken[done - warm] = ended - each->began;
    done++;
    if (!kept)
        disconnect(each);
    return 1;
}

static void aim(const char *name)
{
    size_t length = strlen(name);
    if (length >= sizeof address.sun_path)
        errx(2, "the address is too long");
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path + (*name != '/'), name, length);
    address_size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length);
}

static void run(struct connection *all, long number)
{
    struct epoll_event events[EVENTS];
    int again = 0, silent = 0;
    for (long i = 0; i < number; i++)
        again |= !ask(&all[i]);
    while (done < begun || again) {
        int came = epoll_wait(epoll, events, EVENTS, again ? 1 : 1000);
        if (came < 0 && errno != EINTR)
            err(2, "epoll_wait");
        silent = came > 0 ? 0 : silent + (again ? 1 : 1000);
        if (silent >= MOST_SILENCE)
            errx(1, "no answer to %ld of %ld calls", begun - done, begun);
        for (int i = 0; i < came; i++) {
            struct connection *each = events[i].data.ptr;
            if (take(each) && !hold)
                again |= !ask(each);
        }
        if (again) {
            again = 0;
            for (long i = 0; i < number && !over(); i++)
                if (all[i].descriptor < 0)
                    again |= !ask(&all[i]);
        }
    }
}

int main(int count, char **arguments)
{
    int option, cpu = -1;
    double seconds = 0;
    char *more;
    while ((option = getopt(count, arguments, "c:u:m:set:p:h")) != -1)
        switch (option) {
        case 'c': cpu = atoi(optarg); break;
        case 'u':
            first_uid = strtol(optarg, &more, 10);
            uids = *more == ':' ? atol(more + 1) : 1;
            break;
        case 'm': modulus = atol(optarg); break;
        case 's': series = 1; break;
        case 'e': errors_are_answers = 1; break;
        case 't': seconds = atof(optarg); break;
        case 'p': pause_us = atol(optarg); break;
        case 'h': hold = 1; break;
        default: return 2;
        }
    if (count - optind != 5)
        errx(2, "usage: load [OPTION...] ADDRESS CONNECTIONS REQUESTS each|kept CALL");
    aim(arguments[optind]);
    long connections = atol(arguments[optind + 1]), requests = atol(arguments[optind + 2]);
    kept = !strcmp(arguments[optind + 3], "kept");
    call = arguments[optind + 4];
    templated = strchr(call, '%') != NULL;
    if (connections < 1 || requests < 1 || modulus < 1 || uids < 1 || strlen(call) > ROOM / 16)
        errx(2, "there is no sense in that");
    requests = hold ? connections : requests;
    warm = seconds > 0 || hold ? 0 : requests / 10;
    total = requests + warm;
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (cpu >= 0)
        pin(cpu);
    if (first_uid >= 0 && uids == 1)
        become((uid_t)first_uid);
    struct connection *all = calloc((size_t)connections, sizeof *all);
    taken = calloc((size_t)requests, sizeof *taken);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!all || !taken || epoll < 0)
        err(2, "beginning");
    for (long i = 0; i < connections; i++) {
        all[i].descriptor = -1;
        all[i].uid = first_uid >= 0 ? (uid_t)first_uid : geteuid();
    }
    if (seconds > 0)
        until = now() + (uint64_t)(seconds * 1e9);
    run(all, connections);
    long number = done > warm ? done - warm : 0;
    print_figures(taken, number, ended - counted_from, failed);
    while (hold && getchar() != EOF)
        continue;
    return failed ? 1 : 0;
}
