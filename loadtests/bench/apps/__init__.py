"""The same small service for each peer: `hello`, or as many bytes as RESPONSE_SIZE says; a body is read and dropped."""
