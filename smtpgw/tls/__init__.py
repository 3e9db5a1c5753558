"""TLS with clients: certificates, what is negotiated, who the client is (TLS_README)."""
