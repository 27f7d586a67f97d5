"""Connects as systemd does for a credential, any number of times at once: ask.py SOCKET UNIT CREDENTIAL [COUNT].

Prints one line for each different answer: how often it came, its length, and its text unless it is long.
"""

import collections
import os
import socket
import sys

path, unit, credential = sys.argv[1:4]
count = int(sys.argv[4]) if len(sys.argv) > 4 else 1
peers = []
for number in range(count):
    peer = socket.socket(socket.AF_UNIX)
    peer.bind("\0%x%05x/unit/%s/%s" % (os.getpid(), number, unit, credential))
    peer.connect(path)
    peer.shutdown(socket.SHUT_WR)
    peers.append(peer)
answers = collections.Counter()
for peer in peers:
    parts = []
    while part := peer.recv(1 << 20):
        parts.append(part)
    answers[b"".join(parts)] += 1
for answer, times in answers.items():
    print(times, len(answer), answer.decode() if len(answer) < 1000 else "")
