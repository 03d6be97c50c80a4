"""The programs that are compared, each in a process of its own that waits while another one works.

selection        which programs take part
process          the measuring process's end: starts workers and sends them commands
protocol         what the two ends say to each other
worker           the worker's end: builds a contender and lets it work
step_timer       times a block of steps inside a worker
folio_trainer    everything that train.py does
training_loops   loops without a framework: of Folio's model, and what others share
peers            Hugging Face's and nanoGPT's GPT-2
generators       the same programs for text generation
"""
