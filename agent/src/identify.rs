//! Sockets -> processes, containers: who is at the client end.
