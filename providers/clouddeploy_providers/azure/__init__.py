"""Azure: resource group, network security group, network, Standard address, machine."""
