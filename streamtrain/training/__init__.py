"""Models, the engines that train them, and learners, which decide when to evaluate.

A `Learner` consumes blocks and yields records; its engine trains one replica per learning rate.
`Engine` is the contract. `FusedEngine` implements it with Numba on the CPU, `CudaEngine` with Numba
on a GPU, `TorchEngine` with torch on any device.
"""
