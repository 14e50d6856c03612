"""Models, engines that take steps, and learners that decide when to look.

`Learner` consumes blocks and yields records; its engine trains one replica for each learning rate. `Engine` is the contract;
`TorchEngine` fulfils it with torch, on any device.
"""
