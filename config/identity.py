"""Who we say we are in every object and association. Changing any of these changes emitted bytes."""

MANUFACTURER = "Prognode"
MODEL_NAME = "Prognode"
VERSION = "0.1.0"
# 2.25.<UUID>: no registered root of our own. Version name at most 16 characters (PS3.7 D.3.3.2).
IMPLEMENTATION_CLASS_UID = "2.25.190358417403176219846571208331524094513"
IMPLEMENTATION_VERSION_NAME = "PROGNODE_010"
