"""What a person does with the federation: submit, watch, abort and fetch jobs."""
