"""The benchmark of iarproxy and its peers; `make bench` runs it, `README.md` beside this file tells how to read it.

Rule 1: everything is compared in one run, interleaved round by round, so that a busy machine slows all alike.
Rule 2: the measure is work per CPU-second of a server's process tree; a shared machine's wall clock lies.
Rule 3: an answer counts only if its status and length are right, and every server's bytes are checked once per run.
Rule 4: everything lives in a scratch folder and on ephemeral ports, and ends with the run, however it ends.
"""
