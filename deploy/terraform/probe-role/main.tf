# A role in a consumer account with which Registry Admin tries a pull before it promotes an image. It has what the
# account's nodes have, so that a pull that fails for them fails here. Run it with the provider of that account.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.40"
    }
  }
}

variable "name" {
  type    = string
  default = "registry-admin-probe"
}

variable "server_role_arn" {
  description = "Output role_arn of the module in the registry's account."
  type        = string
}

variable "repositories" {
  description = "ARNs of the repositories that the account's nodes may pull, for example arn:aws:ecr:us-east-1:111111111111:repository/trigger/*."
  type        = list(string)
}

variable "external_id" {
  description = "The same as external_id in the registry's account."
  type        = string
  default     = null
}

variable "tags" {
  type    = map(string)
  default = {}
}

data "aws_iam_policy_document" "trust" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "AWS"
      identifiers = [var.server_role_arn]
    }
    dynamic "condition" {
      for_each = var.external_id[*]
      content {
        test     = "StringEquals"
        variable = "sts:ExternalId"
        values   = [condition.value]
      }
    }
  }
}

data "aws_iam_policy_document" "pull" {
  statement {
    actions   = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    resources = var.repositories
  }
}

resource "aws_iam_role" "probe" {
  name               = var.name
  description        = "Registry Admin: trial pulls"
  assume_role_policy = data.aws_iam_policy_document.trust.json
  tags               = var.tags
}

resource "aws_iam_role_policy" "pull" {
  name   = "pull"
  role   = aws_iam_role.probe.id
  policy = data.aws_iam_policy_document.pull.json
}

output "role_arn" {
  value = aws_iam_role.probe.arn
}
