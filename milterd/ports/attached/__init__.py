"""What is in an attachment: its type by its content, the names in archives, macros, encryption.

Looked at in processes of their own with a deadline and bounded memory: the libraries that know
these formats are large, and the files come from strangers.
"""
