"""AWS: security group, Elastic IP, EC2 instance."""
