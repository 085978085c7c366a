/* The D-Bus client: asks the bus for its id, over and over, and says how long each answer took.
 *
 *     bus [-c CPU] [-u UID] PATH REQUESTS each|kept
 *
 * It speaks D-Bus itself, as much of it as GetId takes: AUTH EXTERNAL, Hello and the call, each when the answer to the one before has
 * come, as sd-bus and libdbus do.  With `each` all of that is done for every call, and its time begins just before connect(2); with
 * `kept` once, and its time begins before the call is sent.  A tenth of REQUESTS is made before anything counts.
 */

#define _GNU_SOURCE
#include "latency.h"
#include <endian.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define ROOM 4096
#define METHOD_CALL 1
#define METHOD_RETURN 2
#define ERROR 3
#define HEADER 16 /* bytes of a message before its fields, and their length at its end */

struct line {
    int descriptor;
    uint32_t serial;
    size_t length;
    unsigned char received[ROOM];
};

static struct sockaddr_un address = {.sun_family = AF_UNIX};

static void put(unsigned char *message, size_t at, uint32_t number)
{
    number = htole32(number);
    memcpy(message + at, &number, sizeof number);
}

static uint32_t got(const unsigned char *message, size_t at)
{
    uint32_t number;
    memcpy(&number, message + at, sizeof number);
    return le32toh(number);
}

static size_t padded(size_t length)
{
    return (length + 7) & ~(size_t)7;
}

static size_t field(unsigned char *message, size_t at, char code, char type, const char *text)
{
    size_t length = strlen(text);
    at = padded(at);
    message[at] = (unsigned char)code;
    message[at + 1] = 1;
    message[at + 2] = (unsigned char)type;
    put(message, at + 4, (uint32_t)length);
    memcpy(message + at + 8, text, length + 1);
    return at + 8 + length + 1;
}

static void call(struct line *line, const char *member)
{
    unsigned char message[512] = {'l', METHOD_CALL, 0, 1};
    size_t at = HEADER;
    at = field(message, at, 1, 'o', "/org/freedesktop/DBus");
    at = field(message, at, 2, 's', "org.freedesktop.DBus");
    at = field(message, at, 3, 's', member);
    at = field(message, at, 6, 's', "org.freedesktop.DBus");
    put(message, 8, ++line->serial);
    put(message, 12, (uint32_t)(at - HEADER));
    if (send(line->descriptor, message, padded(at), MSG_NOSIGNAL) != (ssize_t)padded(at))
        err(1, "send");
}

static void receive(struct line *line)
{
    ssize_t came = recv(line->descriptor, line->received + line->length, ROOM - line->length, 0);
    if (came <= 0)
        errx(1, "the bus has closed the connection");
    line->length += (size_t)came;
}

/* Wait for what answers the call; signals are passed over. */
static void wait_for_reply(struct line *line)
{
    for (int kind = 0; kind != METHOD_RETURN;) {
        size_t size = HEADER;
        while (line->length < size) {
            receive(line);
            if (line->length >= HEADER)
                size = HEADER + padded(got(line->received, 12)) + got(line->received, 4);
            if (size > ROOM)
                errx(1, "a message that is too long");
        }
        size = HEADER + padded(got(line->received, 12)) + got(line->received, 4);
        while (line->length < size)
            receive(line);
        kind = line->received[1];
        if (kind == ERROR)
            errx(1, "an error from the bus");
        line->length -= size;
        memmove(line->received, line->received + size, line->length);
    }
}

static void authenticate(struct line *line)
{
    char text[64], digits[16];
    int length = 1 + sprintf(text + 1, "AUTH EXTERNAL ");
    text[0] = 0;
    sprintf(digits, "%u", geteuid());
    for (const char *digit = digits; *digit; digit++)
        length += sprintf(text + length, "%02x", *digit);
    length += sprintf(text + length, "\r\n");
    if (send(line->descriptor, text, (size_t)length, MSG_NOSIGNAL) != length)
        err(1, "send");
    do
        receive(line);
    while (line->received[line->length - 1] != '\n');
    if (line->length < 2 || memcmp(line->received, "OK", 2))
        errx(1, "the bus does not take AUTH EXTERNAL");
    line->length = 0;
    if (send(line->descriptor, "BEGIN\r\n", 7, MSG_NOSIGNAL) != 7)
        err(1, "send");
}

static void open_line(struct line *line)
{
    line->serial = 0;
    line->length = 0;
    line->descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (line->descriptor < 0 || connect(line->descriptor, (struct sockaddr *)&address, sizeof address))
        err(1, "connect");
    authenticate(line);
    call(line, "Hello");
    wait_for_reply(line);
}

int main(int count, char **arguments)
{
    int option;
    while ((option = getopt(count, arguments, "c:u:")) != -1)
        switch (option) {
        case 'c': pin(atoi(optarg)); break;
        case 'u': become((uid_t)atol(optarg)); break;
        default: return 2;
        }
    if (count - optind != 3 || strlen(arguments[optind]) >= sizeof address.sun_path)
        errx(2, "usage: bus [-c CPU] [-u UID] PATH REQUESTS each|kept");
    strcpy(address.sun_path, arguments[optind]);
    long requests = atol(arguments[optind + 1]), warm = requests / 10;
    int kept = !strcmp(arguments[optind + 2], "kept");
    uint64_t *taken = calloc((size_t)requests + 1, sizeof *taken), counted_from = 0;
    struct line line;
    if (!taken || requests < 1)
        errx(2, "there is no sense in that");
    if (kept)
        open_line(&line);
    for (long number = 0; number < requests + warm; number++) {
        uint64_t began = now();
        if (!kept)
            open_line(&line);
        call(&line, "GetId");
        wait_for_reply(&line);
        if (number == warm)
            counted_from = began;
        if (number >= warm)
            taken[number - warm] = now() - began;
        if (!kept)
            close(line.descriptor);
    }
    print_figures(taken, requests, now() - counted_from, 0);
    return 0;
}
