# The roles of Registry Admin in the account of the registry. Run it there; in each consumer account run ./probe-role.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.40"
    }
  }
}

data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}
data "aws_region" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  region    = data.aws_region.current.id
  ecr       = "arn:${local.partition}:ecr:${local.region}:${local.account}:repository"
  # The actions are those of docs/iam-policy.json, by statement; a test compares that file with the calls in the code.
  actions = { for statement in jsondecode(file("${path.module}/../../docs/iam-policy.json")).Statement : statement.Sid => statement.Action }
  issuer  = var.eks_oidc_provider_arn == null ? "" : split("oidc-provider/", var.eks_oidc_provider_arn)[1]
}

# ---------------------------------------------------------------------------------------------- the program's own role

data "aws_iam_policy_document" "trust" {
  dynamic "statement" {
    for_each = var.eks_oidc_provider_arn[*]
    content {
      actions = ["sts:AssumeRoleWithWebIdentity"]
      principals {
        type        = "Federated"
        identifiers = [statement.value]
      }
      condition {
        test     = "StringEquals"
        variable = "${local.issuer}:sub"
        values   = ["system:serviceaccount:${var.eks_service_account}"]
      }
      condition {
        test     = "StringEquals"
        variable = "${local.issuer}:aud"
        values   = ["sts.amazonaws.com"]
      }
    }
  }
  dynamic "statement" {
    for_each = var.ec2 ? [1] : []
    content {
      actions = ["sts:AssumeRole"]
      principals {
        type        = "Service"
        identifiers = ["ec2.amazonaws.com"]
      }
    }
  }
}

resource "aws_iam_role" "server" {
  name               = var.name
  description        = "Registry Admin"
  assume_role_policy = data.aws_iam_policy_document.trust.json
  tags               = var.tags

  lifecycle {
    precondition {
      condition     = var.ec2 || var.eks_oidc_provider_arn != null
      error_message = "Set ec2 or eks_oidc_provider_arn: otherwise nobody may assume the role."
    }
  }
}

resource "aws_iam_instance_profile" "server" {
  count = var.ec2 ? 1 : 0
  name  = var.name
  role  = aws_iam_role.server.name
  tags  = var.tags
}

data "aws_iam_policy_document" "server" {
  statement {
    sid       = "Repositories"
    actions   = local.actions["Repositories"]
    resources = ["${local.ecr}/${var.namespace}/*"]
  }
  statement {
    sid       = "Registry"
    actions   = local.actions["Registry"]
    resources = ["*"]
  }
  statement {
    sid       = "Roles"
    actions   = local.actions["Roles"]
    resources = concat([aws_iam_role.push.arn], var.probe_role_arns)
  }
  dynamic "statement" {
    for_each = var.restore_archived_images ? [1] : []
    content {
      sid       = "RestoreArchivedImages"
      actions   = local.actions["RestoreArchivedImages"]
      resources = ["${local.ecr}/${var.namespace}/*"]
    }
  }
  dynamic "statement" {
    for_each = aws_sqs_queue.changes[*].arn
    content {
      sid       = "ChangeEvents"
      actions   = local.actions["ChangeEvents"]
      resources = [statement.value]
    }
  }
  dynamic "statement" { # https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-key-management.html
    for_each = aws_kms_key.queue[*].arn
    content {
      sid       = "ReadTheEncryptedQueue"
      actions   = ["kms:Decrypt"]
      resources = [statement.value]
    }
  }
  dynamic "statement" { # https://docs.aws.amazon.com/AmazonECR/latest/userguide/encryption-at-rest.html
    for_each = var.repository_kms_key_arn[*]
    content {
      sid       = "EncryptNewRepositories"
      actions   = ["kms:CreateGrant", "kms:DescribeKey"]
      resources = [statement.value]
    }
  }
}

resource "aws_iam_role_policy" "server" {
  name   = "registry-admin"
  role   = aws_iam_role.server.id
  policy = data.aws_iam_policy_document.server.json
}

# ----------------------------------------------------------- the push role: each deploy's log-in is a session of it

data "aws_iam_policy_document" "push_trust" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "AWS"
      identifiers = [aws_iam_role.server.arn]
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

resource "aws_iam_role" "push" {
  name               = "${var.name}-push"
  description        = "Registry Admin: registry log-ins of deploys, each limited to one repository"
  assume_role_policy = data.aws_iam_policy_document.push_trust.json
  tags               = var.tags
}

data "aws_iam_policy_document" "push" {
  statement {
    sid       = "PushWithTheIssuedLogin"
    actions   = concat(local.actions["PushWithTheIssuedLogin"], ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"])
    resources = ["${local.ecr}/${var.namespace}/*"]
  }
  statement {
    sid       = "LogIn"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"]
  }
  dynamic "statement" { # docs/builds.md
    for_each = length(var.base_repositories) > 0 ? [1] : []
    content {
      sid       = "PullBaseImagesWithTheIssuedLogin"
      actions   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
      resources = [for name in var.base_repositories : "${local.ecr}/${name}"]
    }
  }
}

resource "aws_iam_role_policy" "push" {
  name   = "push"
  role   = aws_iam_role.push.id
  policy = data.aws_iam_policy_document.push.json
}
