"""What compare.py, growth.py and the other scripts beside this folder share: peers, cases, measuring, reports."""
