"""usbcast measured beside its peers: `python -m benchmarks`. docs/performance.md says what each figure means.

peers/      one module per product: how it publishes, how it subscribes, and nothing else
works/      one module per kind of work: which runs it wants, and what its table shows of them
harness.py  starts the processes of a run and hears them
worker.py   the program of these processes, the same for every product
"""
