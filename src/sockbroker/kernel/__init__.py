"""What asks or tells the operating system: one module for each facility of the kernel or libc.

These modules decide nothing. They take and return plain values or those of `sockbroker.core`, raise
OSError unchanged, and know nothing of the broker, the policy or the wire. They build on one another
downwards: `syscalls` below `entries`, that below what is on disk.
"""
