/* Runs a program from beginning to end, or a daemon from beginning to ready, and says how long that took.
 *
 *     launch [-c CPU] [-u UID] [-n TIMES] COMMAND...
 *     launch -r [-f FILE] [-c CPU] [-n TIMES] COMMAND...
 *
 * What COMMAND prints is thrown away.  With -r it is a daemon that tells READY=1 to $NOTIFY_SOCKET; it is ended then, by SIGTERM.
 * Prints a line with a JSON object for each time: `whole`, in microseconds from before the fork; and for a daemon `since`, from when it
 * opened FILE, and its memory once it was ready, in KiB: `resident` and `peak`.  Exit status: 1 if one failed; 2 if it cannot be tried.
 */

#define _GNU_SOURCE
#include "latency.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#define PATIENCE 120000

extern char **environ;
static pid_t child;

static int notified(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char name[128];
    int length = sprintf(address.sun_path + 1, "launch-%d", getpid());
    int made = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (made < 0 || bind(made, (struct sockaddr *)&address, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length)))
        err(2, "the socket to be told by");
    snprintf(name, sizeof name, "@%s", address.sun_path + 1);
    setenv("NOTIFY_SOCKET", name, 1);
    return made;
}

/* When it was ready; *opened becomes when it opened the file that is watched. */
static uint64_t ready(int told, int watch, uint64_t *opened)
{
    char text[65536];
    struct pollfd looks[] = {{.fd = told, .events = POLLIN}, {.fd = watch, .events = POLLIN}};
    for (;;) {
        if (poll(looks, 2, PATIENCE) <= 0)
            errx(1, "it was never ready");
        uint64_t at = now();
        if (looks[1].revents) {
            if (read(watch, text, sizeof text) <= 0)
                err(2, "inotify");
            if (!*opened)
                *opened = at;
        }
        if (looks[0].revents) {
            ssize_t length = recv(told, text, sizeof text - 1, 0);
            text[length > 0 ? length : 0] = 0;
            if (!strncmp(text, "READY=1", 7))
                return at;
            if (!strncmp(text, "STATUS=not started", 18))
                errx(1, "%s", text);
        }
    }
}

static long kibibytes(const char *what)
{
    char path[32], text[256];
    long found = 0;
    size_t length = strlen(what);
    snprintf(path, sizeof path, "/proc/%d/status", child);
    FILE *file = fopen(path, "r");
    while (file && fgets(text, sizeof text, file))
        if (!strncmp(text, what, length))
            found = atol(text + length);
    if (file)
        fclose(file);
    return found;
}

static void once(char **command, int daemon, int told, int watch)
{
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    while (watch >= 0 && read(watch, (char[4096]){0}, 4096) > 0)
        continue; /* of the time before */
    uint64_t began = now(), opened = 0;
    int status, problem = posix_spawnp(&child, command[0], &actions, NULL, command, environ);
    if (problem)
        errx(2, "%s: %s", command[0], strerror(problem));
    if (daemon) {
        uint64_t at = ready(told, watch, &opened);
        printf("{\"whole\": %.1f, \"since\": %.1f, \"resident\": %ld, \"peak\": %ld}\n", (double)(at - began) / 1e3,
               opened ? (double)(at - opened) / 1e3 : 0.0, kibibytes("VmRSS:"), kibibytes("VmHWM:"));
        kill(child, SIGTERM);
    }
    if (waitpid(child, &status, 0) != child)
        err(2, "waitpid");
    if (!daemon)
        printf("{\"whole\": %.1f}\n", (double)(now() - began) / 1e3);
    fflush(stdout);
    if (status)
        errx(1, "%s ended with wait status %d", command[0], status);
    posix_spawn_file_actions_destroy(&actions);
}

int main(int count, char **arguments)
{
    int option, daemon = 0, told = -1, watch = -1;
    long times = 1, uid = -1;
    while ((option = getopt(count, arguments, "+c:u:n:rf:")) != -1)
        switch (option) {
        case 'c': pin(atoi(optarg)); break;
        case 'u': uid = atol(optarg); break;
        case 'n': times = atol(optarg); break;
        case 'r':
            daemon = 1;
            told = notified();
            break;
        case 'f':
            watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
            if (watch < 0 || inotify_add_watch(watch, optarg, IN_OPEN) < 0)
                err(2, "%s", optarg);
            break;
        default: return 2;
        }
    if (optind == count)
        errx(2, "usage: launch [-r] [-f FILE] [-c CPU] [-u UID] [-n TIMES] COMMAND...");
    if (uid >= 0)
        become((uid_t)uid);
    while (times-- > 0)
        once(arguments + optind, daemon, told, watch);
    return 0;
}
