/* Messages into a publishing ZeroMQ socket, whose subscribers must keep nobody waiting; see usbcast_schemas/fanout.py.
 *
 * Any call on a socket may first carry out what its peers have caused: libzmq queues commands for it, and one that a peer has
 * gone walks its whole tree of subscriptions. While commands wait, the socket's descriptor (ZMQ_FD) is readable. So a sender looks
 * there first, and where anything waits it leaves its message to the thread that attends to the socket. Whoever uses the socket
 * holds `use`; a sender only ever tries to get it. */
#define _POSIX_C_SOURCE 200809L
#include "usbcast_core.h"
#include "atomic.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>

enum { MOST_INTERRUPTIONS = 1000 }; /* of one call, which waits for nothing: no process gets so many signals meanwhile */

struct UsbcastFanout {
    void *socket;
    int fd;
    int said; /* more has been said to it than was handed out */
    pthread_mutex_t use;  /* of the socket */
    pthread_mutex_t list; /* of what follows; held for moments only */
    unsigned first, count;
    uint64_t dropped;
    UsbcastPair waiting[USBCAST_MOST_WAITING];
};

UsbcastFanout *usbcast_fanout_new(void *socket, int *error)
{
    int fd;
    size_t room = sizeof fd;
    if (usbcast_zmq.option(socket, USBCAST_ZMQ_FD, &fd, &room) < 0) {
        *error = USBCAST_SOCKET_FAILED;
        return NULL;
    }
    UsbcastFanout *made = calloc(1, sizeof *made);
    if (made == NULL) {
        *error = USBCAST_NO_MEMORY;
        return NULL;
    }
    pthread_mutex_init(&made->use, NULL);
    pthread_mutex_init(&made->list, NULL);
    made->fd = fd;
    made->socket = socket;
    return made;
}

uint64_t usbcast_fanout_dropped(const UsbcastFanout *fanout)
{
    return LOAD(&fanout->dropped);
}

static void close_pair(UsbcastPair *pair)
{
    usbcast_zmq.close(&pair->topic);
    usbcast_zmq.close(&pair->body);
}

/* The oldest message that waits: 1; 0 if none does. */
static int take_waiting(UsbcastFanout *fanout, UsbcastPair *pair)
{
    pthread_mutex_lock(&fanout->list);
    int taken = fanout->count > 0;
    if (taken) {
        *pair = fanout->waiting[fanout->first]; /* what libzmq itself does to move one */
        fanout->first = (fanout->first + 1) % USBCAST_MOST_WAITING;
        STORE(&fanout->count, fanout->count - 1);
    }
    pthread_mutex_unlock(&fanout->list);
    return taken;
}

/* Have a message wait; where so many do already it is dropped, as a full queue of a subscriber would drop it. */
static void add_waiting(UsbcastFanout *fanout, UsbcastPair *pair)
{
    pthread_mutex_lock(&fanout->list);
    int fits = fanout->count < USBCAST_MOST_WAITING;
    if (fits) {
        fanout->waiting[(fanout->first + fanout->count) % USBCAST_MOST_WAITING] = *pair;
        STORE(&fanout->count, fanout->count + 1);
    } else {
        STORE(&fanout->dropped, fanout->dropped + 1);
    }
    pthread_mutex_unlock(&fanout->list);
    if (!fits)
        close_pair(pair);
}

void usbcast_fanout_free(UsbcastFanout *fanout)
{
    UsbcastPair pair;
    while (take_waiting(fanout, &pair))
        close_pair(&pair);
    pthread_mutex_destroy(&fanout->use);
    pthread_mutex_destroy(&fanout->list);
    free(fanout);
}

/* Whether a call on the socket would first carry out what peers have caused. */
static int has_commands(UsbcastFanout *fanout)
{
    struct pollfd look = {fanout->fd, POLLIN, 0};
    return poll(&look, 1, 0) != 0;
}

/* Have libzmq carry out what waits for it. A send may put that off, and then drop a message because a queue seems full. */
static void take_notice(UsbcastFanout *fanout)
{
    int events;
    size_t room = sizeof events;
    usbcast_zmq.option(fanout->socket, USBCAST_ZMQ_EVENTS, &events, &room); /* whatever it answers, it has looked */
}

/* Send a frame without waiting: 0, or libzmq's reason; it is closed either way. */
static int send_frame(void *socket, UsbcastFrame *frame, int flags)
{
    for (int times = 0; usbcast_zmq.send(frame, socket, flags) < 0; times++) {
        int reason = usbcast_zmq.error();
        if (reason != EINTR || times == MOST_INTERRUPTIONS) {
            usbcast_zmq.close(frame);
            return reason;
        }
    }
    return 0;
}

static int send_pair(UsbcastFanout *fanout, UsbcastPair *pair)
{
    int reason = send_frame(fanout->socket, &pair->topic, USBCAST_ZMQ_DONTWAIT | USBCAST_ZMQ_SNDMORE);
    if (reason == 0)
        return send_frame(fanout->socket, &pair->body, USBCAST_ZMQ_DONTWAIT);
    usbcast_zmq.close(&pair->body);
    return reason;
}

int usbcast_fanout_put(UsbcastFanout *fanout, UsbcastPair *pair)
{
    int reason = 0;
    if (LOAD(&fanout->count) == 0 && pthread_mutex_trylock(&fanout->use) == 0) {
        int goes = !has_commands(fanout);
        if (goes)
            reason = send_pair(fanout, pair);
        pthread_mutex_unlock(&fanout->use);
        if (goes)
            return reason;
    }
    add_waiting(fanout, pair);
    /* Whoever had the socket looks for what waits once more after giving it back: if it has not been given back by now, that is
     * still to come. Otherwise nobody may come, unless there are commands. */
    if (pthread_mutex_trylock(&fanout->use) == 0) {
        UsbcastPair next;
        while (reason == 0 && !has_commands(fanout) && take_waiting(fanout, &next))
            reason = send_pair(fanout, &next);
        pthread_mutex_unlock(&fanout->use);
    }
    return reason;
}

int usbcast_make_pair(UsbcastPair *pair, const void *topic, size_t topic_size, const void *body, size_t body_size)
{
    if (usbcast_zmq.init_size(&pair->topic, topic_size) < 0)
        return USBCAST_SOCKET_FAILED;
    if (usbcast_zmq.init_size(&pair->body, body_size) < 0) {
        usbcast_zmq.close(&pair->topic);
        return USBCAST_SOCKET_FAILED;
    }
    memcpy(usbcast_zmq.data(&pair->topic), topic, topic_size);
    memcpy(usbcast_zmq.data(&pair->body), body, body_size);
    return USBCAST_OK;
}

void usbcast_copy_pair(UsbcastPair *to, UsbcastPair *from)
{
    usbcast_zmq.init(&to->topic);
    usbcast_zmq.init(&to->body);
    usbcast_zmq.copy(&to->topic, &from->topic);
    usbcast_zmq.copy(&to->body, &from->body);
}

int usbcast_fanout_attend(UsbcastFanout *fanout, int bell, UsbcastFrame frames[USBCAST_MOST_SAID], int *count)
{
    int rung = 0, reason = 0;
    *count = 0;
    do {
        struct pollfd look[2] = {{fanout->fd, POLLIN, 0}, {bell, POLLIN, 0}};
        int wait_ms = fanout->said || LOAD(&fanout->count) > 0 ? 0 : USBCAST_LOOK_MS;
        rung = poll(look, 2, wait_ms) > 0 && look[1].revents != 0;
        pthread_mutex_lock(&fanout->use);
        UsbcastPair pair;
        for (int most = USBCAST_MOST_WAITING; reason == 0 && most > 0 && take_waiting(fanout, &pair); most--) {
            if (has_commands(fanout))
                take_notice(fanout);
            reason = send_pair(fanout, &pair);
        }
        while (reason == 0 && *count < USBCAST_MOST_SAID) {
            usbcast_zmq.init(&frames[*count]);
            reason = usbcast_zmq.recv(&frames[*count], fanout->socket, USBCAST_ZMQ_DONTWAIT) < 0 ? usbcast_zmq.error() : 0;
            *count += reason == 0;
        }
        pthread_mutex_unlock(&fanout->use);
        fanout->said = *count == USBCAST_MOST_SAID;
        if (reason == EAGAIN || reason == EINTR)
            reason = 0;
    } while (reason == 0 && *count == 0 && !rung);
    return reason;
}
