/*
 * The handover between the node's two paths (docs/design.md, "The way of one packet"): the feed's thread writes whole packets
 * straight into the ring while the fast path is open, and puts everything else into the host queue; a turn, by either thread
 * under the publisher's lock, closes the fast path, settles it, and numbers what waits in the queue.
 *
 * What it shows, for every interleaving of the two threads
 *   - Each transfer is written once, in order, under the sequence that belongs to it, whichever path it takes.
 *   - Batches are sent in the order of their numbers, and each once.
 *   - The ledger counts each transfer once.
 *   - Nothing is left lying: once the feed has read its last transfer, the publisher does not sleep while the queue holds
 *     something, or while a batch has not been sent.
 *
 * What is one step
 *   `put`, `close`, `settle` and the queue's own calls are atomic: the native engine holds the GIL, the pure one a lock. Everything
 *   else is a step for each load and store. Time is reduced to what the threads compare: the publisher is awake, wakes soon by
 *   itself, or sleeps until somebody rings its doorbell (a heartbeat would wake it later, too late for a packet).
 *
 * Faults that the model must find; CI checks that it does
 *   -DSETTLE_BEFORE_CLOSE   a batch that is written between the two is numbered again
 *   -DTAKE_BEFORE_SETTLE    what was in the queue gets sequences that the fast path has given
 *   -DSEND_AFTER_TAKE       what the fast path has written is sent after newer batches
 *   -DOVERTAKES             the fast path takes a transfer while older ones wait in the queue
 *   -DLOOK_THEN_SLEEP       the publisher looks at the queue before it says for how long it sleeps
 *   -DUNSAID                a feed that does not get the lock does not say so: what it wrote is sent with the next heartbeat
 *
 *   spin -a handover.pml && cc -O2 -DSAFETY -DCOLLAPSE -o pan pan.c && ./pan -m200000
 */

#ifndef TRANSFERS
#define TRANSFERS 4
#endif
#define TURN 2 /* a turn takes at most so many transfers */

/* The ring, and the data sockets. */
byte written, sent;

/* The fast path: the next sequence, and its tally since it was settled. */
bool is_open;
byte fast_next, tally, unsent;

/* The slow path: the host queue, the batcher's next sequence, and the ledger. */
chan queue = [TRANSFERS] of { byte };
byte batcher_next, ledger;

/* The publisher's lock, its doorbell, and when it looks by itself. */
#define AWAKE 0
#define SOON  1
#define LATE  2
bool turning, doorbell, left_behind;
byte wakes = AWAKE;

/* Write transfer `which` under `sequence`. */
inline write(which, sequence)
{
    assert(which == sequence && sequence == written);
    written++
}

inline close() { is_open = false }

inline settle()
{
    atomic { batcher_next = batcher_next + tally; ledger = ledger + tally; tally = 0 }
}

inline send_unsent()
{
    atomic { assert(sent + unsent == written); sent = sent + unsent; unsent = 0 }
}

/* Number, write and send what waits in the queue. The caller holds the publisher's lock. */
inline take()
{
    taken = 0;
    do
    :: taken >= TURN || empty(queue) -> break
    :: taken < TURN && nempty(queue) ->
        queue ? which;
        taken++;
        write(which, batcher_next);
        batcher_next++;
        ledger++;
        assert(sent + 1 == written);
        sent++
    od
}

/* A turn of the pipeline. The caller holds the publisher's lock. */
inline turn()
{
#if defined(SETTLE_BEFORE_CLOSE)
    settle(); close(); send_unsent(); take();
#elif defined(TAKE_BEFORE_SETTLE)
    close(); send_unsent(); take(); settle();
#elif defined(SEND_AFTER_TAKE)
    close(); settle(); take(); send_unsent();
#else
    close(); settle(); send_unsent(); take();
#endif
    atomic { fast_next = batcher_next; is_open = true }
}

/* The thread that owns the device. */
active proctype Feed()
{
    byte transfer, which, taken, due;
    bool went, rings;
    do
    :: transfer < TRANSFERS ->
        went = false;
        rings = false;
#ifdef OVERTAKES
        if
        :: true ->
#else
        if
        :: empty(queue) -> /* only this thread adds to it, so that it stays empty */
#endif
            atomic { /* put */
                if
                :: is_open ->
                    write(transfer, fast_next);
                    fast_next++;
                    tally++;
                    went = true;
                    if
                    :: true -> unsent++; rings = true /* somebody else sends it */
                    :: unsent == 0 -> sent++          /* it is sent in the same call */
                    fi
                :: true -> skip /* closed, or it comes too soon after the one before */
                fi
            }
        :: nempty(queue)
        fi;
        if
        :: !went -> atomic { rings = empty(queue); queue ! transfer }
        :: else
        fi;
        if
        :: rings -> /* turn the pipeline here, or leave it to the publisher's thread */
            due = SOON;
            if
            :: atomic { !turning -> turning = true };
                if
                :: turn();
                    if
                    :: empty(queue) -> due = LATE
                    :: nempty(queue)
                    fi
                :: skip
                fi;
                turning = false
            :: turning ->
#ifndef UNSAID
                left_behind = true
#else
                skip
#endif
            fi;
            if
            :: due < wakes -> wakes = due; doorbell = true
            :: else
            fi
        :: else
        fi;
        transfer++
    :: else -> break
    od
}

/* The publisher's own thread. */
active proctype Publisher()
{
    byte which, taken;
    bool waits;
    do
    ::  atomic { !turning -> turning = true };
        turn();
#ifdef LOOK_THEN_SLEEP
        turning = false;
        waits = nempty(queue) || left_behind;
        wakes = LATE;
#else
        wakes = LATE;
        turning = false;
        waits = nempty(queue) || left_behind;
#endif
        if
        :: waits -> left_behind = false; wakes = SOON
        :: else
        fi;
end:
        do /* sleep */
        :: wakes != LATE -> break
        :: doorbell -> doorbell = false
        od;
        wakes = AWAKE
    od
}

/* When nothing moves any more. */
active proctype Rest()
{
    timeout;
    assert(empty(queue) && written == TRANSFERS);
    assert(ledger + tally == TRANSFERS && sent == TRANSFERS)
}
