"""Reading and writing NWB files and Suite2p folders; needs neither JAX nor a model."""
