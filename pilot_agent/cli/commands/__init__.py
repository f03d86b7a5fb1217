"""The commands, one module each: the file's name is the command's, and it exports `COMMAND`.

A new command is a new file here; nothing else names it. A module is imported only when its command
is asked for (or all are listed), so its top may hold nothing that costs time.
"""
