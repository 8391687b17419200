"""Client libraries behind one shape, so that one suite asks the same of each, on Ponor and on Apache Kafka."""
