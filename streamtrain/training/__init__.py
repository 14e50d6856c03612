"""Models, engines that take steps, and learners that decide when to look.

`Learner` consumes blocks and yields records; its engine trains one replica for each learning rate.
`Engine` is the contract; `FusedEngine` fulfils it with Numba on the CPU, `TorchEngine` with torch,
on any device.
"""
