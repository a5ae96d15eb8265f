"""Makes checkpoints for nnU-Net's ``-pretrained_weights`` from checkpoints of other networks."""
