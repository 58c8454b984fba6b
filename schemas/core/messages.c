/* Messages that come out of a ZeroMQ socket, by the functions of a libzmq that is loaded already: this needs no zmq.h and no -lzmq. */
#define _POSIX_C_SOURCE 200809L
#include "usbcast_core.h"

#include <errno.h>

#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#endif

enum { OLDEST_MAJOR = 4, OLDEST_MINOR = 2 };

enum { MOST_INTERRUPTIONS = 1000 }; /* of one call, which waits for nothing: no process gets so many signals meanwhile */

UsbcastZmq usbcast_zmq;

static int found; /* whether they were */

int usbcast_has_libzmq(void)
{
    return found;
}

int usbcast_find_libzmq(const char *path)
{
#if defined(__unix__) || defined(__APPLE__)
    UsbcastZmq *zmq = &usbcast_zmq;
    struct {
        const char *name;
        void *place;
    } wanted[] = {
        {"zmq_msg_init", &zmq->init},    {"zmq_msg_init_size", &zmq->init_size}, {"zmq_msg_data", &zmq->data},
        {"zmq_msg_size", &zmq->size},    {"zmq_msg_more", &zmq->more},           {"zmq_msg_send", &zmq->send},
        {"zmq_msg_recv", &zmq->recv},    {"zmq_msg_close", &zmq->close},         {"zmq_errno", &zmq->error},
        {"zmq_strerror", &zmq->words},   {"zmq_getsockopt", &zmq->option},       {"zmq_msg_copy", &zmq->copy},
        {"zmq_msg_get", &zmq->property}, {"zmq_msg_gets", &zmq->text},
    };
    void *library = found ? NULL : dlopen(path, RTLD_LAZY);
    void *version = library ? dlsym(library, "zmq_version") : NULL;
    if (version) {
        void (*tell)(int *, int *, int *);
        int major = 0, minor = 0, patch = 0;
        memcpy(&tell, &version, sizeof tell);
        tell(&major, &minor, &patch);
        found = major == OLDEST_MAJOR && minor >= OLDEST_MINOR; /* a zmq_msg_t is 64 bytes in all of these */
        for (size_t at = 0; found && at < sizeof wanted / sizeof *wanted; at++) {
            void *function = dlsym(library, wanted[at].name);
            memcpy(wanted[at].place, &function, sizeof function);
            found = function != NULL;
        }
    }
#else
    (void)path;
#endif
    return found;
}

/* Whether a call that failed is to be made again, as a signal interrupted it: 1; 0 if it failed otherwise, or there is no end to it: in a forked
 * process libzmq says so of each of its parent's sockets. USBCAST_INTERRUPTED. */
static int is_interrupted(int *times, UsbcastInterrupted interrupted)
{
    if (usbcast_zmq.error() != EINTR)
        return 0;
    if (interrupted && interrupted())
        return USBCAST_INTERRUPTED;
    return ++*times < MOST_INTERRUPTIONS;
}

/* Close a frame; what went wrong before stays to be asked for. */
static void close_after_failure(UsbcastFrame *frame)
{
    int reason = errno;
    usbcast_zmq.close(frame);
    errno = reason;
}

int usbcast_receive_frame(void *socket, UsbcastFrame *frame, UsbcastInterrupted interrupted)
{
    int times = 0;
    usbcast_zmq.init(frame);
    while (usbcast_zmq.recv(frame, socket, USBCAST_ZMQ_DONTWAIT) < 0) {
        int again = is_interrupted(&times, interrupted);
        if (again > 0)
            continue;
        int reason = again == 0 && usbcast_zmq.error() != EAGAIN ? USBCAST_SOCKET_FAILED : again;
        close_after_failure(frame);
        return reason;
    }
    return 1;
}

int usbcast_receive_pair(void *socket, UsbcastFrame frames[2], UsbcastInterrupted interrupted)
{
    int came = usbcast_receive_frame(socket, &frames[0], interrupted);
    if (came <= 0 || !usbcast_zmq.more(&frames[0]))
        return came;
    came = usbcast_receive_frame(socket, &frames[1], interrupted);
    if (came < 0)
        close_after_failure(&frames[0]);
    return came < 0 ? came : 1 + came;
}
