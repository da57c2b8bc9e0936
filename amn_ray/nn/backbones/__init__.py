"""The networks that features are taken from: torchvision's ResNets, timm's convolutional networks, and plug-ins'."""
