"""Look at token files as the application would: each is there, holds something, and can't be replaced from here."""

import os
import sys

wrong = []
for path in sys.argv[1:]:
    try:
        with open(path, "rb") as file:
            size = len(file.read())
    except OSError as error:
        wrong.append(f"{path}: {error.strerror}, as user {os.getuid()} with groups {os.getgroups()}")
        continue
    if not size:
        wrong.append(f"{path}: is empty")
    elif os.access(os.path.dirname(path), os.W_OK):
        print(f"{path}: {size} bytes; this container may replace it")
    else:
        print(f"{path}: {size} bytes, read-only")
sys.exit("\n".join(wrong) or 0)
