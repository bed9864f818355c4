"""Photos beyond one machine: the job of `folder`, its rows made by Ray Data's actors on the machines of a cluster."""
