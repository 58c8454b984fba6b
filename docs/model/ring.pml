/*
 * The ring of docs/wire.md, section 7: one writer, two readers, and every interleaving of their single loads and stores.
 *
 * What it shows
 *   - A reader never accepts a torn batch: its words are those of one batch, and of the one that was asked for. (Where stores
 *     are reordered it may be another batch, whole; its own number says so. After an older one the reader looks again.)
 *   - Each batch is accepted or passed over as a declared gap, once and in order, up to the last one.
 *   - No wake-up is lost: a reader never sleeps for ever while there is something new, or after the ring was closed.
 *     Spin reports a reader that does as an invalid end state.
 *   - The same holds where the writer is killed between any two of its stores, except that a reader may then be asleep
 *     beside news: a reader's sleep is bounded by its own timer, which the model lets fire once the writer is dead.
 *
 * Memory
 *   Each process stores into a buffer of its own, which is emptied into memory at any time; a fence waits until it is empty.
 *   By default the buffer keeps its order (x86: total store order). With -DREORDERS it keeps the order of stores to one
 *   word only, as weakly ordered machines do; slots then carry a checksum, which a reader compares (-DCHECKSUMS).
 *
 * Faults that the model must find (docs/decisions/0006); CI checks that it does
 *   -DNO_FENCE           no fence between moving the head and looking at the flag, on the writer's side
 *   -DCLEAR_AFTER_WAKE   the flag is cleared after the wake-up was sent
 *   -DLOOK_THEN_FLAG     a reader looks at the head before its flag is seen by others: no fence on its side
 *   -DTAIL_AFTER_BYTES   the tail is moved after the bytes were overwritten
 *   -DREORDERS           without -DCHECKSUMS
 *
 *   spin -a ring.pml && cc -O2 -DSAFETY -DCOLLAPSE -o pan pan.c && ./pan -m200000
 */

#ifndef BATCHES
#define BATCHES 3
#endif
#define SLOTS 2
#ifndef READERS
#define READERS 2
#endif

/* Words of shared memory: a batch is two words of data, so that half of one can be seen. */
#define HEAD     0
#define TAIL     1
#define WAITING  2
#define STATE    3
#define NAMED(s)  (4 + (s))          /* number of the slot, plus one */
#define FIRST(s)  (4 + SLOTS + (s))  /* first half of the bytes */
#define SECOND(s) (4 + 2 * SLOTS + (s))
#define SUM(s)    (4 + 3 * SLOTS + (s))
#define WORDS     (4 + 4 * SLOTS)

byte memory[WORDS];
bool edge[2];  /* the fifo: each write is a new edge for every reader */
bool dead, rests;

/* The writer's stores on their way to memory. A reader stores one word only, the flag, and fences at once. */
#define DEPTH 3
chan buffer = [DEPTH] of { byte, byte };

#define DRAIN(which) :: atomic { buffer ?? eval(which), value -> memory[which] = value; value = 0 }

active proctype Memory()
{
    byte word, value;
end:
    do
#ifdef REORDERS
    /* The oldest store to any one word. */
    DRAIN(HEAD)
    DRAIN(TAIL)
    DRAIN(WAITING)
    DRAIN(STATE)
    DRAIN(NAMED(0))
    DRAIN(NAMED(1))
    DRAIN(FIRST(0))
    DRAIN(FIRST(1))
    DRAIN(SECOND(0))
    DRAIN(SECOND(1))
    DRAIN(SUM(0))
    DRAIN(SUM(1))
#else
    :: atomic { buffer ? word, value -> memory[word] = value; word = 0; value = 0 }
#endif
    od
}

#define store(word, value) buffer ! word, value
#define fence empty(buffer)

/* The writer may be killed before any of its stores. What is in its buffer still comes to memory, or not: it was killed earlier. */
#define OR_KILLED
#ifdef KILLED
#undef OR_KILLED
#define OR_KILLED if :: true :: dead = true; goto killed fi
#endif

inline move_tail()
{
    if
    :: head - tail >= SLOTS -> tail++; store(TAIL, tail)
    :: else
    fi
}

inline put_bytes()
{
    store(FIRST(head % SLOTS), head + 1);
    OR_KILLED;
    store(SECOND(head % SLOTS), head + 1)
}

inline send_wake_up()
{
    atomic { edge[0] = true; edge[1] = true }
}

/* memory[WAITING] is read as the writer sees it: it never reads its own store to it before that is in memory, as it reads the
 * flag only after a fence or, in the faulty variant, after stores to other words. */
inline wake()
{
#ifndef NO_FENCE
    fence;
#endif
    if
    :: memory[WAITING] ->
#ifdef CLEAR_AFTER_WAKE
        send_wake_up();
        OR_KILLED;
        store(WAITING, 0); fence
#else
        store(WAITING, 0); fence;
        OR_KILLED;
        send_wake_up()
#endif
    :: else
    fi
}

active proctype Writer()
{
    byte head, tail;
    do
    :: head < BATCHES ->
        OR_KILLED;
#ifdef TAIL_AFTER_BYTES
        put_bytes();
        move_tail();
#else
        move_tail();
        OR_KILLED;
        put_bytes();
#endif
        OR_KILLED;
        store(SUM(head % SLOTS), head + 1);
        store(NAMED(head % SLOTS), head + 1);
        OR_KILLED;
        head++;
        store(HEAD, head);
        OR_KILLED;
        wake()
    :: else -> break
    od;
    OR_KILLED;
    /* The stream rests, or it ends. An end wakes everybody in any case, so only a rest shows that a wake-up was lost. */
    if
    :: true -> fence; rests = true
    :: true -> store(STATE, 1); store(WAITING, 1); fence; wake()
    fi;
#ifdef KILLED
killed:
    skip
#endif
}

/* What a reader does with batch `at`: accept it if it was whole before and after the copy, else pass it over as a gap. */
inline take()
{
    atomic { first = 0; second = 0; sum = 0; whole = true }
    whole = memory[TAIL] <= at;
    if
    :: whole -> whole = memory[NAMED(at % SLOTS)] == at + 1
    :: else
    fi;
    if
    :: whole ->
        first = memory[FIRST(at % SLOTS)];
        second = memory[SECOND(at % SLOTS)];
        sum = memory[SUM(at % SLOTS)];
        whole = memory[TAIL] <= at;
        if
        :: whole -> whole = memory[NAMED(at % SLOTS)] == at + 1
        :: else
        fi;
#ifdef CHECKSUMS
        /* The checksum of a batch is its number here; the bytes have it if both halves are of that batch. */
        whole = whole && first == second && first == sum
#endif
    :: else
    fi;
    atomic {
        if
        :: whole -> assert(first == second)
        :: else
        fi;
        if
        /* What is said of a slot may still be of the batch that was there before: its own number tells. Look again. */
        :: whole && first < next -> skip
        /* The batch, or a newer one that has just overwritten it: what lies between is a gap. */
        :: whole && first >= next -> next = first + 1; at++
        :: !whole && memory[TAIL] > at -> at++
        :: !whole && memory[TAIL] <= at -> skip
        fi;
#ifndef CHECKSUMS
        assert(!whole || first == at)
#endif
    }
}

proctype Reader(bit me)
{
    byte at, seen, first, second, sum;
    byte next = 1;  /* the number of the batch that is expected; they count from 1 here */
    bool whole;
    do
    :: seen = memory[HEAD];
        do
        :: at < seen -> take()
        :: else -> break
        od;
        if
        :: memory[STATE] && at == memory[HEAD] -> break
        :: dead -> break  /* its timer shows it that the heartbeat has stopped */
        :: else
        fi;
        /* Ask to be woken, then look once more. The fence stands between the two: the store is in memory at once. */
#ifndef LOOK_THEN_FLAG
        memory[WAITING] = 1;
#endif
        if
        :: memory[HEAD] != seen || memory[STATE] -> skip
        :: else ->
#ifdef LOOK_THEN_FLAG
            memory[WAITING] = 1;
#endif
            if
            :: atomic { edge[me] -> edge[me] = false }
            :: rests && at == memory[HEAD] -> break  /* it has all that there is; one that sleeps beside news is stuck here */
            :: dead -> break
            fi
        fi
    od;
    assert(dead || next == BATCHES + 1)
}

init
{
    atomic {
        run Reader(0);
        if
        :: READERS > 1 -> run Reader(1)
        :: else
        fi
    }
}
