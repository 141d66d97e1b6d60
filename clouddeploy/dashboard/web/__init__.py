"""The dashboard's network side: REST, pages, and what stands between them and the network."""
