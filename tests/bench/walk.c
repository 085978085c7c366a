/* What a look at every entry of a folder costs in C: readdir and fstatat of each.
 *
 *     walk FOLDER TIMES
 */

#define _GNU_SOURCE
#include "latency.h"
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

static long walk(const char *name)
{
    long seen = 0;
    struct stat status;
    DIR *folder = opendir(name);
    if (!folder)
        err(1, "%s", name);
    for (struct dirent *entry; (entry = readdir(folder));)
        seen += !fstatat(dirfd(folder), entry->d_name, &status, AT_SYMLINK_NOFOLLOW);
    closedir(folder);
    return seen;
}

int main(int count, char **arguments)
{
    long times = count == 3 ? atol(arguments[2]) : 0;
    uint64_t *taken = calloc((size_t)times + 1, sizeof *taken), began = now();
    if (!taken || times < 1)
        errx(2, "usage: walk FOLDER TIMES");
    for (long i = 0; i < times; i++) {
        uint64_t before = now();
        if (walk(arguments[1]) < 2)
            errx(1, "%s has nothing in it", arguments[1]);
        taken[i] = now() - before;
    }
    print_figures(taken, times, now() - began, 0);
    return 0;
}
