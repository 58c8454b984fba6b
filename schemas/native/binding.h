/* schemas/core as Python sees it: objects, exceptions, and the interpreter's lock (GIL). Everything is called with the GIL held: a copy
 * takes microseconds, and to get the GIL back from a busy thread may take milliseconds. Only what waits lets go of it.
 *
 * batch.c: objects made of the bytes of a batch. ring.c: a ring. short_way.c: from what was read into the ring. messages.c: out of a
 * ZeroMQ socket. fanout.c: into a publishing one. follower.c: from the ring, or a socket, to the application. module.c: the module.
 */
#ifndef USBCAST_BINDING_H
#define USBCAST_BINDING_H

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include "../core/usbcast_core.h"

#pragma GCC visibility push(hidden) /* nothing but what Python looks for is seen outside */

/* Raise the exception that stands for a UsbcastError; return NULL. */
PyObject *failed(int error);

/* ---- batch.c ---- */

/* All of a transfer: 1; 0 if it is no whole packets in bytes; -1 with an exception. */
int take_piece(UsbcastPiece *piece, PyObject *transfer, uint32_t packet_size);

PyObject *decoded(PyObject *raw, const unsigned char *head, const unsigned char *bytes, const UsbcastPlain *plain, PyObject *payload,
                  PyTypeObject *batch, PyTypeObject *arrivals);
PyObject *decoded_bytes(PyObject *raw, const unsigned char *bytes, Py_ssize_t size, const UsbcastPlain *plain, PyTypeObject *batch,
                        PyTypeObject *arrivals);
PyObject *decode(PyObject *module, PyObject *const *args, Py_ssize_t given);
extern const char decode_doc[];

/* ---- ring.c ---- */

typedef struct {
    PyObject_HEAD
    Py_buffer view;
    PyObject *whole; /* all of it, to be looked at only */
    int open;
    UsbcastRing core;
} Ring;

int ring_is_open(Ring *self);
Py_ssize_t take_pieces(Ring *self, PyObject *items, PyTypeObject *transfer, const UsbcastRun *run);
int write_pieces(Ring *self, Py_ssize_t count, UsbcastRun *run);
int send_newest(Ring *self, PyObject *publish, uint64_t most);

/* What is asked of the slots of a ring. */
typedef struct {
    uint64_t most_bytes;
    uint32_t major;
    PyTypeObject *batch, *arrivals;
    PyObject *owner; /* of batches that stay where they are, or None: they are copied */
    const UsbcastNext *next; /* only a plain batch that is this one */
} Asked;

PyObject *take_slot(Ring *self, uint64_t at, const Asked *asked, UsbcastTaken *taken);
int spin_waited(Ring *self, uint64_t head, uint64_t most_ns);

/* ---- messages.c ---- */

void *socket_at(unsigned long long address);
PyObject *zmq_failed(int reason);

typedef struct {
    PyObject_HEAD
    void *socket;   /* NULL if it is closed */
    PyObject *left; /* the frames of a message that has come and is still to be received */
    char drained;   /* nothing more had come when it was looked last */
} Messages;

PyObject *receive_message(Messages *self, const Py_buffer *topic, int (*fits)(void *, const unsigned char *, Py_ssize_t),
                          void *about);
PyObject *find_libzmq(PyObject *module, PyObject *path);
extern const char find_libzmq_doc[];

/* ---- fanout.c ---- */

int send_by(PyObject *sender, const void *bytes, Py_ssize_t size);

/* ---- The types, and what is to be there before they are used ---- */

extern PyTypeObject *ring_type, *messages_type, *fanout_type, *sender_type;
extern PyType_Spec ring_spec, short_way_spec, messages_spec, fanout_spec, sender_spec, follower_spec;

int batch_ready(void);
int ring_ready(void);
int messages_ready(void);
int follower_ready(void);

#pragma GCC visibility pop

#endif
