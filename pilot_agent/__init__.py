"""What is true, topic by topic, without actors: a topic package knows no actor and no process."""
