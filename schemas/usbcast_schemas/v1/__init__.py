"""Generated messages of contract version 1. Do not edit: run `make proto`."""
