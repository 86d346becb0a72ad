"""Everything there is to show about the certificate of one image."""
