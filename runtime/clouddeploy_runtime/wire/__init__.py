"""What travels over the one network port: control messages (`federation.proto`) and raw blobs."""
