/* What a layout of directories costs in C: each is looked at once, and made where it is not there.
 *
 *     layout FOLDER FIRST-UID NUMBER GID
 *
 * Each FOLDER/UID is a directory of that uid, with mode 0700.  One that is right costs an fstatat; one that is not there mkdirat,
 * openat, fstat, fchown, fstat and close, under its own name from the beginning.  Prints how long all of it took, in microseconds.
 */

#define _GNU_SOURCE
#include "latency.h"
#include <fcntl.h>
#include <sys/stat.h>

static int right(const struct stat *status, uid_t uid, gid_t gid)
{
    return status->st_mode == (S_IFDIR | 0700) && status->st_uid == uid && status->st_gid == gid;
}

static void make(int folder, const char *name, uid_t uid, gid_t gid)
{
    struct stat status;
    if (mkdirat(folder, name, 0700))
        err(1, "%s", name);
    int made = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (made < 0 || fstat(made, &status) || fchown(made, uid, gid) || fstat(made, &status) || !right(&status, uid, gid))
        err(1, "%s", name);
    close(made);
}

int main(int count, char **arguments)
{
    if (count != 5)
        errx(2, "usage: layout FOLDER FIRST-UID NUMBER GID");
    uid_t first = (uid_t)atol(arguments[2]);
    uid_t end = first + (uid_t)atol(arguments[3]);
    gid_t gid = (gid_t)atol(arguments[4]);
    uint64_t began = now();
    int folder = open(arguments[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0)
        err(1, "%s", arguments[1]);
    for (uid_t uid = first; uid < end; uid++) {
        char name[16];
        struct stat status;
        snprintf(name, sizeof name, "%u", uid);
        if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW))
            make(folder, name, uid, gid);
        else if (!right(&status, uid, gid))
            errx(1, "%s is not as it should be", name);
    }
    printf("{\"whole\": %.1f}\n", (double)(now() - began) / 1e3);
    return 0;
}
