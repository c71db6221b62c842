"""Launchers: where the processes come from that work through a grid.

A launcher has the grid as names, `RunOptions`: written as JSON they are read back by `launch.worker` in any process
that sees the same files. And it has the store, where processes meet: the lock of a run says who works on it, its files
how far it is. So it calls `worker.work_through(Assignment(options, share))` in as many places as it has, and tells what
the store says.

`local` computes in this process too. `ray` and `slurm` are a `Crew` each, which `dispatch` keeps at work; `place` says
what their machines must have. `choice` names them.
"""
