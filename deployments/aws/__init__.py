"""The only package that imports boto3: the calls to AWS, and what AWS answers as values."""
