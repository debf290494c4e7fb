"""What holds for every test."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job; the processes of tests inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
