"""The image of containers in which sites and jobs run, and how it is built."""
