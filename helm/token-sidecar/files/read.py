"""Look at token files as the application would: each is there and holds something."""

import os
import sys
from pathlib import Path

wrong = []
for file in map(Path, sys.argv[1:]):
    try:
        size = len(file.read_bytes())
    except OSError as error:
        wrong.append(f"{file}: {error.strerror}, as user {os.getuid()} with groups {os.getgroups()}")
        continue
    if size:
        print(f"{file}: {size} bytes, {'writable' if os.access(file.parent, os.W_OK) else 'read-only'}")
    else:
        wrong.append(f"{file}: is empty")
sys.exit("\n".join(wrong) or 0)
