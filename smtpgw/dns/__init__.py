"""What the gateway asks the name service, and how its answers look to the other rooms."""
