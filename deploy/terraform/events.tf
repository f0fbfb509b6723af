# Change events (docs/change-events.md): ECR's calls in CloudTrail, and ECR's own events about images, go to one queue.

resource "aws_sqs_queue" "changes" {
  count                      = var.change_events ? 1 : 0
  name                       = var.name
  visibility_timeout_seconds = 60
  message_retention_seconds  = 3600 # a sweep has compared what is older
  kms_master_key_id          = one(aws_kms_key.queue[*].arn)
  sqs_managed_sse_enabled    = var.queue_customer_key ? null : true
  tags                       = var.tags
}

resource "aws_cloudwatch_event_rule" "changes" {
  count         = var.change_events ? 1 : 0
  name          = var.name
  event_pattern = file("${path.module}/change-events.json")
  state         = "ENABLED_WITH_ALL_CLOUDTRAIL_MANAGEMENT_EVENTS" # also GetRegistryPolicy, by which the feed proves itself
  tags          = var.tags
}

resource "aws_cloudwatch_event_rule" "images" {
  count         = var.change_events ? 1 : 0
  name          = "${var.name}-images"
  event_pattern = file("${path.module}/image-events.json")
  tags          = var.tags
}

resource "aws_cloudwatch_event_target" "changes" {
  count = var.change_events ? 1 : 0
  rule  = aws_cloudwatch_event_rule.changes[0].name
  arn   = aws_sqs_queue.changes[0].arn
}

resource "aws_cloudwatch_event_target" "images" {
  count = var.change_events ? 1 : 0
  rule  = aws_cloudwatch_event_rule.images[0].name
  arn   = aws_sqs_queue.changes[0].arn
}

data "aws_iam_policy_document" "queue" {
  count = var.change_events ? 1 : 0
  statement {
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.changes[0].arn]
    principals {
      type        = "Service"
      identifiers = ["events.amazonaws.com"]
    }
    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = [aws_cloudwatch_event_rule.changes[0].arn, aws_cloudwatch_event_rule.images[0].arn]
    }
  }
}

resource "aws_sqs_queue_policy" "changes" {
  count     = var.change_events ? 1 : 0
  queue_url = aws_sqs_queue.changes[0].id
  policy    = data.aws_iam_policy_document.queue[0].json
}

# EventBridge needs both actions to send to an encrypted queue; without them it drops the events in silence.
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-key-management.html
data "aws_iam_policy_document" "queue_key" {
  count = var.change_events && var.queue_customer_key ? 1 : 0
  statement {
    sid       = "TheAccountDecides"
    actions   = ["kms:*"]
    resources = ["*"]
    principals {
      type        = "AWS"
      identifiers = ["arn:${local.partition}:iam::${local.account}:root"]
    }
  }
  statement {
    sid       = "EventBridgeSends"
    actions   = ["kms:GenerateDataKey", "kms:Decrypt"]
    resources = ["*"]
    principals {
      type        = "Service"
      identifiers = ["events.amazonaws.com"]
    }
  }
}

resource "aws_kms_key" "queue" {
  count               = var.change_events && var.queue_customer_key ? 1 : 0
  description         = "Registry Admin: the queue of change events"
  enable_key_rotation = true
  policy              = data.aws_iam_policy_document.queue_key[0].json
  tags                = var.tags
}
