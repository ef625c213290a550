"""What runs inside a training or evaluation job, as a child process here or as an Azure ML job."""
