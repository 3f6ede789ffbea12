"""The ciphers: one module each, all behind the interface of C{cipher}, named in C{suites}."""
