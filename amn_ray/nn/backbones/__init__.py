"""Feature extractors: torchvision's ResNets, timm's convolutional networks, and those of plug-ins."""
