"""Mutation testing: change one thing at a time in a pure module, and see whether the module's own tests notice.

`make mutants ARGS="--module continuity --sample 20 --seed 7"`. A change that no test notices is either a test that is missing, or
no change in what the module does; a person decides which.
"""
